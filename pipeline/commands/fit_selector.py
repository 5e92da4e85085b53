"""dataltt fit-selector"""

from __future__ import annotations

import shlex

from ...stages.training.config import FitSelectorConfig
from ..ends import end_run
from ..options import takes
from ..progress import reporting


@takes(FitSelectorConfig)
def fit_selector(config: FitSelectorConfig, as_json: bool) -> None:
    """Fine-tune a dense ViT with token dropping, for better tickets: EViT without token fusion.

    Its output is the folder of a run, for select --checkpoint. Fit one for each share that you select with; a selector
    may be smaller or larger than the student, as long as both see the same patches. Runs in one process, or in many
    under torchrun.

    Example: dataltt fit-selector --model deit_b --keep-rate 0.7 --shards 'imagenet/train-{000000..001023}.tar'
    --val-shards 'imagenet/val-*.tar'
    """
    from ...stages.training.fit_selector import fit_selector as run

    with reporting() as reporter:
        result = run(config, reporter)
    share = f"{config.cascade.as_flags} --shards {shlex.quote(config.shards or '')}"
    end_run(result, as_json, f"dataltt select --model {config.model} --checkpoint {shlex.quote(result.run)} {share}")
