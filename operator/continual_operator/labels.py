"""Names on children and on the resource: labels, annotations, and nothing else."""

from __future__ import annotations

GROUP = "continual.dev"
API_VERSION = "continual.dev/v1alpha1"
KIND = "ContinualModel"

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "continual-operator"
MODEL = "continual.dev/model"
COMPONENT = "continual.dev/component"
VERSION = "continual.dev/version"
JOB = "continual.dev/job"
MANIFEST_HASH = "continual.dev/manifest-hash"
"""Annotation on a child: hash of the manifest it was applied from; equal means nothing to do."""

INFERENCE = "inference"
EVALUATOR = "evaluator"
TRAINER = "trainer"

RETRAIN = "continual.dev/retrain-requested-at"
PROMOTE = "continual.dev/promote"
APPROVE = "continual.dev/approve"
REJECT = "continual.dev/reject"
ROLLBACK = "continual.dev/rollback-requested-at"
CANCEL = "continual.dev/cancel-training-requested-at"
READMIT = "continual.dev/readmit"
VERBS = (CANCEL, REJECT, ROLLBACK, READMIT, APPROVE, PROMOTE, RETRAIN)
"""One-shot verbs in the order in which they are obeyed: the cautious first. The operator records the handled value, it removes none."""
