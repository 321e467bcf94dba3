# Redis for the chart's embedded mode: the distribution's own package. The configuration, its users and its password hashes are
# the chart's, mounted; without them it is an empty server for its own loopback address.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* && install -d -o 10001 -g 10001 /data
ENV HOME=/tmp
WORKDIR /data
USER 10001:10001
CMD ["redis-server", "--dir", "/data", "--bind", "127.0.0.1", "--appendonly", "yes"]
