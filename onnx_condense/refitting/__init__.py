"""Refitting: consumers that lost channels get the weights that lose least.

A consumer (`consumer`) has a matrix (`layout`) that multiplies rows of features (`rows`, `windows`). Without data
(`refit`), `estimate` says how its features vary: noise through a model whose statistics are kept (`noise`,
`synthetic`, `images`), or sums over inputs (`summing`). On calibration inputs (`calibrate`), which come in shards
(`samples`), a `comparison` runs the original and the condensed model as far as the consumer (`staged`) and sums what
it reads and what it should make; least squares follow (`moments`), of a rank for pairs of factors (`ranked`). Layers
behind changed ones (`changed`) are consumers too; what multiplies each channel alone (`filters`) has a least squares
for each of them (`apart`). The producer that it alone reads goes downhill with it (`producers`, `gauss_newton`).
Recurrent nodes (`recurrent`) are run alone (`unrolled`): W and R follow from their own states. What products of data
lose, and take up, is told by the second moments of both sides (`pairs`).
"""

__all__ = [
    "calibrate",
    "consumer",
    "elimination",
    "estimate",
    "images",
    "layout",
    "moments",
    "pairs",
    "reading",
    "refit",
    "samples",
    "summing",
    "synthetic",
]
