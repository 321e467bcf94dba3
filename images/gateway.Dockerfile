# The HTTP API and the dashboard. The dashboard's web libraries and typeface are installed from their packages beforehand (`hack/setup web`)
# and travel with the code: the gateway serves them itself.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS dependencies
COPY images/install requirements/gateway.txt /tmp/build/
RUN /tmp/build/install --require-hashes -r /tmp/build/gateway.txt && /tmp/build/install check && rm -r /tmp/build

FROM dependencies AS code
COPY contract/continual_contract /opt/continual/code/continual_contract
COPY clients/continual_clients /opt/continual/code/continual_clients
COPY gateway/continual_gateway /opt/continual/code/continual_gateway
RUN test -s /opt/continual/code/continual_gateway/static/vendor/htmx.min.js || { echo "the web libraries are missing; run: hack/setup web" >&2; exit 1; }
RUN /opt/continual/bin/python -m compileall -q /opt/continual/code && chmod -R a+rX /opt/continual/code

FROM dependencies
ARG CODE_OWNER=0
COPY --from=code --chown=${CODE_OWNER} /opt/continual/code /opt/continual/code
ENV PATH=/opt/continual/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER 10001:10001
CMD ["python", "-m", "continual_gateway"]
