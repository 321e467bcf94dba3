# The trainer. torch has a layer of its own, by far the largest: a new version of anything else leaves it alone.
# TORCH_INDEX_URL may name a package index with CPU builds of torch (a tenth of the size); their hashes are not in our lock, so
# the exact versions are pinned but the bytes are that index's word.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS dependencies
ARG TORCH_INDEX_URL=
COPY images/install requirements/torch.txt /tmp/build/
RUN if [ -z "$TORCH_INDEX_URL" ]; then /tmp/build/install --require-hashes -r /tmp/build/torch.txt; \
    else /tmp/build/install --index-url "$TORCH_INDEX_URL" $(grep -oE '^(torch|torchvision)==[^ ;]+' /tmp/build/torch.txt); fi && rm -r /tmp/build
COPY images/install requirements/trainer.txt /tmp/build/
RUN /tmp/build/install --require-hashes -r /tmp/build/trainer.txt && /tmp/build/install check && rm -r /tmp/build

FROM dependencies AS code
COPY contract/continual_contract /opt/continual/code/continual_contract
COPY clients/continual_clients /opt/continual/code/continual_clients
COPY workers/continual_workers/__init__.py /opt/continual/code/continual_workers/__init__.py
COPY workers/continual_workers/training /opt/continual/code/continual_workers/training
RUN /opt/continual/bin/python -m compileall -q /opt/continual/code && chmod -R a+rX /opt/continual/code

FROM dependencies
ARG CODE_OWNER=0
COPY --from=code --chown=${CODE_OWNER} /opt/continual/code /opt/continual/code
ENV PATH=/opt/continual/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib MPLBACKEND=agg TORCH_HOME=/tmp/torch TORCHINDUCTOR_CACHE_DIR=/tmp/inductor USER=continual
USER 10001:10001
CMD ["python", "-m", "continual_workers.training"]
