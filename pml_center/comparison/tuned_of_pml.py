"""TUNED: what a search moves in the losses of pytorch-metric-learning, as ours say it of themselves."""

from pml_center.losses.tuning import SCALE, TEMPERATURE, Range

_MARGINS = {"neg_margin": Range("margin", 0.5, 1.5), "pos_margin": Range("other", 0, 0.5)}
_OF_PRECISION = Range("scale", 10, 1000, log=True, inverse=True)  # steps that a sigmoid stands for
_OF_DISTANCES = Range("scale", 0.5, 64, log=True)  # squared, of directions

# Those that have the name of one of ours are tuned like it. An empty entry has nothing but rates.
TUNED: dict[str, dict[str, Range]] = {
    "AngularLoss": {"alpha": Range("margin", 20, 60)},
    "CircleLoss": {"gamma": Range("scale", 16, 512, log=True), "m": Range("margin", 0.1, 0.6)},
    "ContrastiveLoss": _MARGINS,
    "DynamicSoftMarginLoss": {},
    "FastAPLoss": {},
    "GeneralizedLiftedStructureLoss": _MARGINS,
    "HistogramLoss": {},
    "InstanceLoss": {"gamma": SCALE},
    "IntraPairVarianceLoss": {
        "pos_eps": Range("margin", 0.001, 0.1, log=True),
        "neg_eps": Range("other", 0.001, 0.1, log=True),
    },
    "LiftedStructureLoss": _MARGINS,
    "ManifoldLoss": {
        "margin": Range("margin", 0.1, 10, log=True, relative=True),
        "lambdaC": Range("weight", 0.1, 10, log=True, relative=True),
    },
    "MarginLoss": {"margin": Range("margin", 0.05, 0.5), "beta": Range("other", 0.6, 1.5)},
    "MultiSimilarityLoss": {
        "beta": Range("scale", 10, 200, log=True),
        "base": Range("margin", 0.2, 0.8),
        "alpha": Range("other", 0.5, 8, log=True),
    },
    "NCALoss": {"softmax_scale": _OF_DISTANCES},
    "NPairsLoss": {},
    "NTXentLoss": {"temperature": TEMPERATURE},
    "PNPLoss": {"anneal": _OF_PRECISION},
    "ProxyAnchorLoss": {"alpha": SCALE, "margin": Range("margin", 0, 0.5)},
    "ProxyNCALoss": {"softmax_scale": _OF_DISTANCES},
    "RankedListLoss": {"Tn": Range("scale", 0.5, 4, log=True), "margin": Range("margin", 0.2, 0.8)},
    "SignalToNoiseRatioContrastiveLoss": _MARGINS,
    "SmoothAPLoss": {"temperature": _OF_PRECISION},
    "SoftTripleLoss": {
        "la": SCALE,
        "margin": Range("margin", 0, 0.2),
        "gamma": Range("other", 0.02, 0.5, log=True),
    },
    "SupConLoss": {"temperature": TEMPERATURE},
    "ThresholdConsistentMarginLoss": {
        "margin_plus": Range("margin", 0.7, 0.95),
        "margin_minus": Range("other", 0.3, 0.65),
    },
    "TripletMarginLoss": {"margin": Range("margin", 0.01, 0.5, log=True)},
    "TupletMarginLoss": {"scale": SCALE, "margin": Range("margin", 0, 20)},
    "VICRegLoss": {},
}
