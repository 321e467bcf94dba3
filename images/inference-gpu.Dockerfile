# The inference worker with the CUDA provider of ONNX Runtime; CUDA's libraries come as wheels, the driver from the node.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS dependencies
COPY images/install requirements/inference-gpu.txt /tmp/build/
RUN /tmp/build/install --require-hashes -r /tmp/build/inference-gpu.txt && /tmp/build/install check && rm -r /tmp/build \
 && ln -s /opt/continual/lib/python3*/site-packages/nvidia /opt/continual/nvidia

FROM dependencies AS code
COPY contract/continual_contract /opt/continual/code/continual_contract
COPY clients/continual_clients /opt/continual/code/continual_clients
COPY workers/continual_workers/__init__.py /opt/continual/code/continual_workers/__init__.py
COPY workers/continual_workers/streaming /opt/continual/code/continual_workers/streaming
COPY workers/continual_workers/inference /opt/continual/code/continual_workers/inference
RUN /opt/continual/bin/python -m compileall -q /opt/continual/code && chmod -R a+rX /opt/continual/code

FROM dependencies
ARG CODE_OWNER=0
COPY --from=code --chown=${CODE_OWNER} /opt/continual/code /opt/continual/code
ENV PATH=/opt/continual/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 \
    LD_LIBRARY_PATH=/opt/continual/nvidia/cu13/lib:/opt/continual/nvidia/cudnn/lib
USER 10001:10001
CMD ["python", "-m", "continual_workers.inference"]
