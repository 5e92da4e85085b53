"""Imports whatever commands import, so that forks of this process need not."""

# ruff: noqa: F401
import dataltt.artifacts_schema.combining.merge
import dataltt.artifacts_schema.publishing
import dataltt.pipeline.cli
import dataltt.stages.baking.bake
import dataltt.stages.data.packing
import dataltt.stages.selection.label
import dataltt.stages.selection.select
import dataltt.stages.training.train
import torch

torch.set_num_threads(1)
