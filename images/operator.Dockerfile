# The operator. BASE_IMAGE is a Debian with python3 (3.11 or newer) and its venv module; the build context is the repository's root.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS dependencies
COPY images/install requirements/operator.txt /tmp/build/
RUN /tmp/build/install --require-hashes -r /tmp/build/operator.txt && /tmp/build/install check && rm -r /tmp/build

FROM dependencies AS code
COPY contract/continual_contract /opt/continual/code/continual_contract
COPY clients/continual_clients /opt/continual/code/continual_clients
COPY operator/continual_operator /opt/continual/code/continual_operator
RUN /opt/continual/bin/python -m compileall -q /opt/continual/code && chmod -R a+rX /opt/continual/code

FROM dependencies
ARG CODE_OWNER=0
COPY --from=code --chown=${CODE_OWNER} /opt/continual/code /opt/continual/code
ENV PATH=/opt/continual/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
CMD ["python", "-m", "continual_operator"]
