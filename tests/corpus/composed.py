"""scikit-learn's estimators that are made of others."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.corpus.estimators import GROUPS, LABELS, TABLE, TEXTS, X, probabilities, sk, transformed
from tests.corpus.kinds import Kind


def _pipeline() -> Any:
    columns = sk(
        "compose.ColumnTransformer",
        [("words", sk("preprocessing.OneHotEncoder"), [0, 1]), ("numbers", sk("preprocessing.StandardScaler"), [2])],
    )
    return sk("pipeline.Pipeline", [("columns", columns), ("model", sk("linear_model.LogisticRegression"))]).fit(
        TABLE, LABELS
    )


def _texts() -> Any:
    steps = [sk("feature_extraction.text.TfidfVectorizer", stop_words="english"), sk("naive_bayes.MultinomialNB")]
    return sk("pipeline.Pipeline", list(zip("ab", steps, strict=True))).fit(TEXTS, GROUPS[:100])


def _members() -> list[tuple[str, Any]]:
    return [
        ("linear", sk("linear_model.LogisticRegression")),
        ("tree", sk("tree.DecisionTreeClassifier", random_state=0)),
    ]


def _united() -> Any:
    return sk(
        "pipeline.FeatureUnion",
        [("pca", sk("decomposition.PCA", 2)), ("best", sk("feature_selection.SelectKBest", k=2))],
    ).fit(X, GROUPS)


def _continued(forest: Any) -> Any:
    """Answers before and after more trees are grown, by the random numbers that the forest was loaded with."""
    before = forest.predict_proba(X)
    forest.set_params(n_estimators=9).fit(X, GROUPS)
    return [before, forest.predict_proba(X), forest.estimators_[-1].tree_.threshold]


def _warm_forest() -> Any:
    return sk(
        "ensemble.RandomForestClassifier", n_estimators=5, warm_start=True, random_state=np.random.RandomState(3)
    ).fit(X, GROUPS)


KINDS = [
    Kind("a pipeline of columns", _pipeline, lambda model: [model.predict(TABLE), model.predict_proba(TABLE)]),
    Kind("a pipeline of texts", _texts, lambda model: model.predict_proba(TEXTS)),
    Kind(
        "ensemble.VotingClassifier",
        lambda: sk("ensemble.VotingClassifier", _members(), voting="soft").fit(X, LABELS),
        probabilities,
    ),
    Kind(
        "ensemble.StackingClassifier",
        lambda: sk("ensemble.StackingClassifier", _members(), cv=2).fit(X, LABELS),
        probabilities,
    ),
    Kind(
        "calibration.CalibratedClassifierCV",
        lambda: sk("calibration.CalibratedClassifierCV", sk("svm.LinearSVC", random_state=0), cv=2).fit(X, LABELS),
        probabilities,
    ),
    Kind(
        "multiclass.OneVsRestClassifier",
        lambda: sk("multiclass.OneVsRestClassifier", sk("linear_model.LogisticRegression")).fit(X, LABELS),
        probabilities,
    ),
    Kind(
        "model_selection.GridSearchCV",
        lambda: sk("model_selection.GridSearchCV", sk("svm.SVC"), {"C": [0.5, 2]}, cv=2).fit(X, LABELS),
        lambda m: [m.predict(X), m.best_params_, m.cv_results_["mean_test_score"]],
    ),
    Kind("pipeline.FeatureUnion", _united, transformed),
    Kind("a forest that goes on growing", _warm_forest, _continued),
]
