"""The paper's rows on ImageNet, one function each: for whoever has the data and the GPUs.

Each fine-tunes the selector with token dropping (30 epochs; not where it says otherwise), selects with 16 drawn views
per image (--views), and trains dense, ticket, random, fixed-random, inverse and random-matched on those same views, by
DeiT's recipe but for what the family is trained by elsewhere. `random-matched` is the paper's longer training of (b):
as many tokens as dense training sees.

Cost is that of one seed, counted: GMACs times epochs, 1 being dense training of the student on 224-px images. Fitting
the selector and selecting, once, come to another .03 to .12 where nothing else is said (a training step counts three
forward passes, selecting and labelling one). Rows whose selector is not fitted spare nearly all of that.

The paper's tables could not be looked up: rows are those of upstream's scripts, which stand beside them, and of sizes
that have none where it says so. Which table has which is for whoever has the paper to fill in. The authors of dataltt
have run none of this at full size: what is to be expected is the paper's claim, and the published accuracy of the
dense models, which are trained on fresh crops instead of 16 stored views.
"""

from __future__ import annotations

from . import paper_ablations, paper_deit, paper_families

RECIPES = (*paper_deit.RECIPES, *paper_families.RECIPES, *paper_ablations.RECIPES)
