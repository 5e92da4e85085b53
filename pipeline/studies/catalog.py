"""The studies by name. A study is a plain function that sets it up; its docstring is what `--describe` prints.

The paper's rows are a table instead (paper_rows.py), and their descriptions are made from it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...artifacts_schema import OptionError
from ...stages.runtime.reporting import Reporter
from .compare_views import views_fashion, views_photos
from .converged import converged
from .engine import Study
from .fashion import fashion
from .frontier import frontier
from .inputs import StudyInputs
from .paper_describe import describe_row
from .paper_rows import PAPER_ROWS, PaperRow
from .paper_study import study_of
from .photos import photos
from .transfer import transfer

StudyMaker = Callable[[StudyInputs, Reporter], Study]


@dataclass(frozen=True, slots=True)
class PaperStudy:
    """Sets up the study of a row of the paper."""

    row: PaperRow

    def __call__(self, inputs: StudyInputs, reporter: Reporter) -> Study:
        return study_of(self.row, inputs, reporter)


STUDIES: Mapping[str, StudyMaker] = {
    "fashion": fashion,
    "converged": converged,
    "frontier": frontier,
    "photos": photos,
    "transfer": transfer,
    "views-fashion": views_fashion,
    "views-photos": views_photos,
    **{row.name: PaperStudy(row) for row in PAPER_ROWS},
}


def study_named(name: str) -> StudyMaker:
    """Finds a study by name; dashes and underscores are alike.

    Raises:
        OptionError: there is none.
    """
    wanted = name.replace("-", "_")
    for known, study in STUDIES.items():
        if known.replace("-", "_") == wanted:
            return study
    near = difflib.get_close_matches(name, STUDIES, n=1)
    hint = f"did you mean {near[0]}?" if near else "all of them: dataltt study list"
    raise OptionError(f"there is no study {name!r}; {hint}")


def describe(study: StudyMaker) -> str:
    """Says what a study runs, costs and expects."""
    return describe_row(study.row) if isinstance(study, PaperStudy) else inspect.getdoc(study) or ""
