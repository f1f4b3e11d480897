"""Models that are made for streams: train, evaluate, calibrate, decide.

from stepstream import learn

training = learn.train(learn.read("data.csv", label="y"))
"""

from stepstream.learn.answers import probabilities
from stepstream.learn.calibration import Calibration, calibrate
from stepstream.learn.completion import Completed, complete
from stepstream.learn.cross_validation import Sweep, Tried, cross_validate, sweep
from stepstream.learn.data import Sequences, folds, sequences, split
from stepstream.learn.decision_rules import Cost, Score, decisions
from stepstream.learn.distribution import drift_reference
from stepstream.learn.evaluation import Evaluation, evaluate
from stepstream.learn.files import read
from stepstream.learn.guards import Finding, leaks
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import Training, train
from stepstream.learn.trigger import Trigger, fit_trigger
from stepstream.learn.unseen import OutOfFold, out_of_fold

__all__ = [
    "Calibration",
    "Completed",
    "Cost",
    "Evaluation",
    "Finding",
    "OutOfFold",
    "Recipe",
    "Score",
    "Sequences",
    "Sweep",
    "Training",
    "Tried",
    "Trigger",
    "calibrate",
    "complete",
    "cross_validate",
    "decisions",
    "drift_reference",
    "evaluate",
    "fit_trigger",
    "folds",
    "leaks",
    "out_of_fold",
    "probabilities",
    "read",
    "sequences",
    "split",
    "sweep",
    "train",
]
