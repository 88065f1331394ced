"""scikit-learn's kinds: fitted estimators, by their paths below `sklearn`; imported when one is made."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from tests.corpus.kinds import Kind

_random = np.random.default_rng(0)
X = _random.normal(size=(160, 6))
MORE = _random.normal(size=(80, 6))
NUMBERS = X[:, 0] * 2 - X[:, 1] ** 2
GROUPS = np.digitize(NUMBERS, [-1.5, 0.5])  # three classes
MORE_GROUPS = np.digitize(MORE[:, 0] * 2 - MORE[:, 1] ** 2, [-1.5, 0.5])
COUNTS = _random.integers(0, 9, size=(160, 6))
LABELS = np.array(["low", "middle", "high"])[GROUPS]
TEXTS = [
    f"the {a} {b} sat on {c} mat{n % 40}"
    for n, (a, b, c) in enumerate([("black", "cat", "a"), ("wét", "dog", "my")] * 50)
]
TABLE = np.array([[["a", "b", "c"][n % 3], ["x", "y"][n % 2], n / 7] for n in range(160)], object)


def sk(path: str, *arguments: Any, **parameters: Any) -> Any:
    """Return sklearn.MODULE.NAME(…)."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"sklearn.{module}"), name)(*arguments, **parameters)


def predictions(model: Any) -> Any:
    return model.predict(X)


def probabilities(model: Any) -> Any:
    return [model.predict(X), model.predict_proba(X), model.classes_]


def decisions(model: Any) -> Any:
    return [model.predict(X), model.decision_function(X)]


def transformed(model: Any) -> Any:
    return model.transform(X)


def scores(model: Any) -> Any:
    return [model.predict(X), model.score_samples(X)]


def learns_more(model: Any) -> Any:
    """Classes after learning more, which writes into the arrays that the model was loaded with."""
    before = model.predict(X)
    for _ in range(3):
        model.partial_fit(MORE, MORE_GROUPS)
    return [before, model.predict(X)]


def learns_more_numbers(model: Any) -> Any:
    before = model.predict(X)
    model.partial_fit(MORE, MORE[:, 0])
    return [before, model.predict(X)]


def learns_more_alone(model: Any) -> Any:
    model.partial_fit(MORE)
    return (model.transform if hasattr(model, "transform") else model.predict)(X)


# A copy: an estimator that keeps X and is asked about that very X takes another way through it.
def _classifies(path: str, answer: Any = probabilities, **parameters: Any) -> Kind:
    return Kind(path, lambda: sk(path, **parameters).fit(X.copy(), GROUPS), answer)


def _regresses(path: str, answer: Any = predictions, **parameters: Any) -> Kind:
    return Kind(path, lambda: sk(path, **parameters).fit(X.copy(), NUMBERS), answer)


def _alone(path: str, answer: Any = transformed, **parameters: Any) -> Kind:
    return Kind(path, lambda: sk(path, **parameters).fit(X.copy()), answer)


def _counts(path: str, answer: Any, **parameters: Any) -> Kind:
    return Kind(path, lambda: sk(path, **parameters).fit(COUNTS, GROUPS), answer)


CLASSIFIERS = [
    _classifies("linear_model.LogisticRegression"),
    _classifies("linear_model.SGDClassifier", learns_more, random_state=0),
    _classifies("linear_model.Perceptron", learns_more, random_state=0),
    _classifies("linear_model.RidgeClassifier", decisions),
    _classifies("svm.SVC", decisions),
    _classifies("svm.NuSVC", decisions, nu=0.2),
    _classifies("svm.LinearSVC", decisions, random_state=0),
    _classifies("tree.DecisionTreeClassifier", random_state=0),
    _classifies("tree.ExtraTreeClassifier", random_state=0),
    _classifies("ensemble.RandomForestClassifier", n_estimators=12, random_state=0),
    _classifies("ensemble.ExtraTreesClassifier", n_estimators=12, random_state=0),
    _classifies("ensemble.GradientBoostingClassifier", n_estimators=6, random_state=0),
    _classifies("ensemble.HistGradientBoostingClassifier", max_iter=6, random_state=0),
    _classifies("ensemble.AdaBoostClassifier", n_estimators=5, random_state=0),
    _classifies("ensemble.BaggingClassifier", n_estimators=5, random_state=0),
    _classifies("neighbors.KNeighborsClassifier", algorithm="kd_tree"),
    _classifies("neighbors.RadiusNeighborsClassifier", radius=9.0, algorithm="ball_tree"),
    _classifies("neighbors.NearestCentroid", predictions),
    _classifies("naive_bayes.GaussianNB", learns_more),
    _classifies(
        "neural_network.MLPClassifier", learns_more, hidden_layer_sizes=(9,), max_iter=300, tol=0.1, random_state=0
    ),
    _classifies("discriminant_analysis.LinearDiscriminantAnalysis"),
    _classifies("discriminant_analysis.QuadraticDiscriminantAnalysis"),
    _classifies("gaussian_process.GaussianProcessClassifier", random_state=0),
    _classifies("semi_supervised.LabelSpreading"),
    _classifies("dummy.DummyClassifier"),
    _counts("naive_bayes.MultinomialNB", lambda model: model.predict_proba(COUNTS)),
    _counts("naive_bayes.ComplementNB", lambda model: model.predict_proba(COUNTS)),
    _counts("naive_bayes.CategoricalNB", lambda model: model.predict_proba(COUNTS)),
]

REGRESSORS = [
    _regresses("linear_model.LinearRegression"),
    _regresses("linear_model.Ridge"),
    _regresses("linear_model.Lasso", alpha=0.1),
    _regresses("linear_model.ElasticNetCV", cv=3),
    _regresses("linear_model.BayesianRidge", lambda model: model.predict(X, return_std=True)),
    _regresses("linear_model.HuberRegressor"),
    _regresses("linear_model.RANSACRegressor", random_state=0),
    _regresses("linear_model.SGDRegressor", learns_more_numbers, random_state=0),
    _regresses("svm.SVR"),
    _regresses("kernel_ridge.KernelRidge", kernel="rbf"),
    _regresses("neighbors.KNeighborsRegressor", algorithm="brute"),
    _regresses(
        "gaussian_process.GaussianProcessRegressor",
        lambda m: [*m.predict(X, return_std=True), m.sample_y(X[:3], random_state=1)],
    ),
    _regresses("ensemble.RandomForestRegressor", n_estimators=9, random_state=0),
    _regresses("ensemble.HistGradientBoostingRegressor", max_iter=6, random_state=0),
    _regresses(
        "neural_network.MLPRegressor",
        learns_more_numbers,
        hidden_layer_sizes=(9,),
        max_iter=300,
        tol=0.1,
        random_state=0,
    ),
    _regresses("cross_decomposition.PLSRegression"),
    Kind(
        "isotonic.IsotonicRegression",
        lambda: sk("isotonic.IsotonicRegression").fit(X[:, 0], NUMBERS),
        lambda m: m.predict(np.linspace(-1, 1, 9)),
    ),
    Kind(
        "multioutput.MultiOutputRegressor",
        lambda: sk("multioutput.MultiOutputRegressor", sk("linear_model.Ridge")).fit(X, X[:, :2]),
        predictions,
    ),
]

TRANSFORMERS = [
    _alone("decomposition.PCA", n_components=3),
    _alone("decomposition.IncrementalPCA", learns_more_alone, n_components=3),
    _alone("decomposition.KernelPCA", n_components=3, kernel="rbf", fit_inverse_transform=True),
    _alone("decomposition.TruncatedSVD", n_components=3, random_state=0),
    _alone("decomposition.FastICA", n_components=3, random_state=0, tol=0.01),
    _alone("decomposition.FactorAnalysis", n_components=2),
    _counts("decomposition.NMF", lambda model: model.transform(COUNTS), n_components=2, random_state=0, max_iter=2000),
    _counts(
        "decomposition.LatentDirichletAllocation",
        lambda model: [model.partial_fit(COUNTS[:9]).transform(COUNTS)],
        n_components=2,
        random_state=0,
        max_iter=3,
    ),
    _alone("cluster.KMeans", n_clusters=4, random_state=0, n_init=1),
    _alone("cluster.MiniBatchKMeans", learns_more_alone, n_clusters=4, random_state=0, n_init=1, batch_size=2048),
    # Its nodes' arrays are views of others, which no pickle keeps: it learns differently ever after.
    replace(
        _alone("cluster.Birch", learns_more_alone, threshold=0.9, n_clusters=None, branching_factor=8), as_pickle=False
    ),
    _alone("cluster.DBSCAN", lambda model: [model.labels_, model.components_], eps=1.0),
    _alone("mixture.GaussianMixture", scores, n_components=2, random_state=0),
    _alone("ensemble.IsolationForest", scores, n_estimators=9, random_state=0),
    _alone("neighbors.LocalOutlierFactor", decisions, novelty=True),
    _alone("svm.OneClassSVM", scores),
    _alone("covariance.EllipticEnvelope", decisions, random_state=0),
    _alone("neighbors.KernelDensity", lambda model: [model.score_samples(X), model.sample(3, random_state=1)]),
    _alone("neighbors.NearestNeighbors", lambda model: model.kneighbors(MORE), algorithm="ball_tree"),
    _alone("preprocessing.StandardScaler", learns_more_alone),
    _alone("preprocessing.QuantileTransformer", n_quantiles=50, random_state=0),
    _alone("preprocessing.PowerTransformer"),
    _alone("preprocessing.SplineTransformer"),
    _alone("preprocessing.PolynomialFeatures", lambda model: [model.transform(X), model.get_feature_names_out()]),
    _alone("impute.KNNImputer"),
    _alone("impute.SimpleImputer"),
    _alone("kernel_approximation.Nystroem", n_components=20, random_state=0),
    _alone("random_projection.SparseRandomProjection", n_components=4, random_state=0, density=0.5),
    _classifies("feature_selection.SelectKBest", transformed, k=3),
    Kind(
        "preprocessing.FunctionTransformer",
        lambda: sk("preprocessing.FunctionTransformer", np.tanh).fit(X),
        transformed,
    ),
    Kind(
        "preprocessing.OneHotEncoder",
        lambda: sk("preprocessing.OneHotEncoder").fit(TABLE[:, :2]),
        lambda m: [m.transform(TABLE[:, :2]).toarray(), m.categories_],
    ),
    Kind(
        "preprocessing.OrdinalEncoder",
        lambda: sk("preprocessing.OrdinalEncoder").fit(TABLE[:, :2]),
        lambda m: m.transform(TABLE[:, :2]),
    ),
    Kind(
        "preprocessing.LabelEncoder",
        lambda: sk("preprocessing.LabelEncoder").fit(LABELS),
        lambda m: [m.transform(LABELS), m.inverse_transform([2, 0])],
    ),
    Kind(
        "feature_extraction.CountVectorizer",
        lambda: sk("feature_extraction.text.CountVectorizer", ngram_range=(1, 2)).fit(TEXTS),
        lambda m: [m.transform(TEXTS).toarray(), m.vocabulary_],
    ),
    Kind(
        "feature_extraction.TfidfVectorizer",
        lambda: sk("feature_extraction.text.TfidfVectorizer").fit(TEXTS),
        lambda m: [m.transform(TEXTS).toarray(), m.get_feature_names_out()],
    ),
    Kind(
        "feature_extraction.HashingVectorizer",
        lambda: sk("feature_extraction.text.HashingVectorizer", n_features=64),
        lambda m: m.transform(TEXTS).toarray(),
    ),
    Kind(
        "feature_extraction.DictVectorizer",
        lambda: sk("feature_extraction.DictVectorizer").fit([{"a": 1, "b": "x"}, {"b": "y"}]),
        lambda m: [m.transform([{"b": "y", "a": 3}]).toarray(), m.vocabulary_],
    ),
]


KINDS = [*CLASSIFIERS, *REGRESSORS, *TRANSFORMERS]
