"""Environment variables by which a process is told where it is: the same names in a pod and on a laptop.

Secrets are never in argv or the environment, only in files named by the environment.
"""

from __future__ import annotations

NAMESPACE = "CONTINUAL_NAMESPACE"
MODEL = "CONTINUAL_MODEL"
REDIS_URL = "CONTINUAL_REDIS_URL"
"""redis://host:port/db without credentials."""
REDIS_PASSWORD_FILE = "CONTINUAL_REDIS_PASSWORD_FILE"  # noqa: S105 -- a path, not a password
REDIS_USERNAME = "CONTINUAL_REDIS_USERNAME"
STORE_URL = "CONTINUAL_STORE_URL"
"""file:///path, or s3://bucket?endpoint=http://host:port"""
STORE_CREDENTIALS_FILE = "CONTINUAL_STORE_CREDENTIALS_FILE"
"""JSON {access_key, secret_key} for s3."""
VERSION = "CONTINUAL_VERSION"
CHECKPOINT = "CONTINUAL_CHECKPOINT"
"""Digest of the manifest an inference worker serves."""
ROLE_SALT = "CONTINUAL_SALT"
SAMPLE_PERCENT = "CONTINUAL_SAMPLE_PERCENT"
ANSWERS_TTL = "CONTINUAL_ANSWERS_TTL_SECONDS"
BATCH_SIZE = "CONTINUAL_BATCH_SIZE"
MAX_LAG = "CONTINUAL_MAX_LAG_SECONDS"
"""Above this lag shadow work is dropped and counted."""
DEVICE = "CONTINUAL_DEVICE"
CPUS = "CONTINUAL_CPUS"
HEALTH_ADDRESS = "HEALTH_ADDRESS"
"""host:port or unix:/path of /healthz, /readyz, /metrics."""
POD_NAME = "CONTINUAL_POD"
"""Unique per process start; the consumer's name."""
DATA = "CONTINUAL_DATA"
"""Folder with named datasets."""
TERMINATION_LOG = "CONTINUAL_TERMINATION_LOG"
"""File for a last message when a process gives up; /dev/termination-log in a pod."""
MIN_IDLE = "CONTINUAL_MIN_IDLE_SECONDS"
"""How long an entry may lie with a silent worker before another takes it over; leases of long work are renewed at a third of it."""
