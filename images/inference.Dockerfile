# The inference worker, and the evaluator: both run from this image, neither needs torch.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS dependencies
COPY images/install requirements/inference.txt /tmp/build/
RUN /tmp/build/install --require-hashes -r /tmp/build/inference.txt && /tmp/build/install check && rm -r /tmp/build

FROM dependencies AS code
COPY contract/continual_contract /opt/continual/code/continual_contract
COPY clients/continual_clients /opt/continual/code/continual_clients
COPY workers/continual_workers/__init__.py /opt/continual/code/continual_workers/__init__.py
COPY workers/continual_workers/streaming /opt/continual/code/continual_workers/streaming
COPY workers/continual_workers/inference /opt/continual/code/continual_workers/inference
COPY workers/continual_workers/evaluation /opt/continual/code/continual_workers/evaluation
RUN /opt/continual/bin/python -m compileall -q /opt/continual/code && chmod -R a+rX /opt/continual/code

FROM dependencies
ARG CODE_OWNER=0
COPY --from=code --chown=${CODE_OWNER} /opt/continual/code /opt/continual/code
ENV PATH=/opt/continual/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER 10001:10001
CMD ["python", "-m", "continual_workers.inference"]
