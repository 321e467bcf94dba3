# MinIO for the chart's embedded mode. Upstream publishes no images, so the binary is built from its pinned Go module
# (hack/tools/minio) and handed in: `python hack/tools/build.py minio`, then copied to MINIO_BINARY; hack/images.py does both.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG MINIO_BINARY=out/images/minio
COPY --chmod=0755 ${MINIO_BINARY} /usr/local/bin/minio
RUN install -d -o 10001 -g 10001 /data
ENV HOME=/tmp
WORKDIR /data
USER 10001:10001
CMD ["minio", "server", "--address", ":9000", "/data"]
