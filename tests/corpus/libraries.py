"""Other libraries' kinds: scipy, pandas, gensim, xgboost, lightgbm. Each is imported when one is made."""

from __future__ import annotations

import datetime as dt
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from tests.corpus.estimators import MORE, NUMBERS, TEXTS, X
from tests.corpus.kinds import Kind

SENTENCES = [text.split() for text in TEXTS]


def _sparse(name: str) -> Any:
    matrix = np.where(np.sin(np.arange(6000.0)) > 0.7, np.arange(6000.0), 0).reshape(100, 60)
    if name == "dia_matrix":
        matrix = np.triu(np.tril(matrix, 9), -9)
    return getattr(import_module("scipy.sparse"), name)(matrix)


def _asked_sparse(matrix: Any) -> Any:
    """Answers of a matrix that is multiplied, and written where its kind allows that."""
    before = [type(matrix), matrix.shape, matrix.dtype, matrix.toarray(), matrix @ np.arange(60.0)]
    if matrix.format in ("csr", "csc"):
        matrix.data *= 2
        matrix.sum_duplicates()
    elif matrix.format in ("lil", "dok"):
        matrix[3, 4] = 5
    return [before, matrix.T.toarray()]


def _scipy(path: str, *arguments: Any) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"scipy.{module}"), name)(*arguments)


def _frame(rows: int) -> Any:
    pd = import_module("pandas")
    n = np.arange(rows)
    zone = dt.timezone(dt.timedelta(hours=2))
    return pd.DataFrame(
        {
            "count": n,
            "rate": np.where(n % 5 == 0, np.nan, n / 3),
            "small": n.astype("i1"),
            "good": n % 2 == 0,
            "word": [f"word {k % 50}" for k in n],
            "string": pd.array([None if k % 9 == 0 else f"s{k}" for k in n], dtype="string"),
            "maybe": pd.array([None if k % 4 == 0 else int(k) for k in n], dtype="Int64"),
            "kind": pd.Categorical([["low", "high"][k % 2] for k in n], ["low", "mid", "high"], ordered=True),
            "day": pd.date_range("2026-01-01", periods=rows, freq="h"),
            "zoned": pd.date_range("2026-01-01", periods=rows, freq="D", tz=zone),
            "object": [(k, [k]) if k % 2 else None for k in n.tolist()],
        },
        index=pd.Index(n * 2, name="key"),
    )


def _of_frame(frame: Any) -> Any:
    return [
        type(frame),
        list(map(str, frame.dtypes)),
        frame.columns.tolist(),
        frame.index.names,
        frame.index.tolist(),
        [frame.iloc[:, column].astype(object).map(repr).tolist() for column in range(frame.shape[1])],
    ]


def _asked_frame(frame: Any) -> Any:
    """Answers of a frame that is read, written, grouped and added to."""
    before = _of_frame(frame)
    frame.loc[2, "rate"] = -1.0
    frame["count"] += 1
    frame["new"] = frame["rate"].fillna(0) * 2
    return [before, _of_frame(frame), frame.groupby("kind", observed=True)["rate"].sum().tolist()]


def _levels() -> Any:
    frame = _frame(120)[["count", "rate", "kind"]]
    frame.index = import_module("pandas").MultiIndex.from_product(
        [range(10), list("abcdefghijkl")], names=["n", "letter"]
    )
    return frame


def _series() -> list[Any]:
    pd = import_module("pandas")
    frame = _frame(3000)
    return [
        frame["kind"],
        frame["zoned"],
        frame["string"],
        pd.Series(np.arange(9000.0), name="x"),
        pd.interval_range(0, 9).to_series(),
    ]


def _of_series(made: list[Any]) -> Any:
    return [[str(each.dtype), each.name, each.index.tolist(), each.astype(object).map(repr).tolist()] for each in made]


def _word2vec() -> Any:
    return import_module("gensim.models").Word2Vec(SENTENCES, vector_size=40, min_count=1, workers=1, seed=1, epochs=2)


def _trained_further(model: Any) -> Any:
    """Answers before and after training goes on, which writes into the vectors."""
    before = [model.wv["cat"].copy(), model.wv.most_similar("cat", topn=3), model.wv.index_to_key]
    model.train(SENTENCES[:20], total_examples=20, epochs=1)
    return [before, model.wv.vectors, model.wv.key_to_index]


def _vectors() -> Any:
    keyed = import_module("gensim.models").KeyedVectors(30)
    keyed.add_vectors([f"w{n}" for n in range(4000)], np.sin(np.arange(120_000, dtype="f4")).reshape(4000, 30))
    return keyed


def _asked_vectors(keyed: Any) -> Any:
    similar = keyed.most_similar(positive=["w3", "w4"], negative=["w9"], topn=4)
    keyed.add_vectors(["new"], np.ones((1, 30), "f4"))
    return [similar, keyed["w17"], keyed["new"], len(keyed), keyed.get_index("w3999")]


def _dictionary() -> Any:
    return import_module("gensim.corpora").Dictionary(SENTENCES)


def _topics() -> Any:
    dictionary = _dictionary()
    corpus = [dictionary.doc2bow(words) for words in SENTENCES]
    return import_module("gensim.models").LdaModel(
        corpus, id2word=dictionary, num_topics=3, random_state=1, dtype=np.float64
    )


def _asked_topics(model: Any) -> Any:
    bows = [model.id2word.doc2bow(words) for words in SENTENCES[:9]]
    before = [model.get_document_topics(bow) for bow in bows]
    model.update(bows)
    return [before, model.get_topics()]


def _boosted(classes: bool) -> Any:
    name = "XGBClassifier" if classes else "XGBRegressor"
    model = getattr(import_module("xgboost"), name)(n_estimators=8, n_jobs=1)
    return model.fit(X, (NUMBERS > 0).astype(int) if classes else NUMBERS)


def _booster() -> Any:
    xgboost = import_module("xgboost")
    return xgboost.train({"nthread": 1}, xgboost.DMatrix(X, NUMBERS), 5)


def _lightgbm(name: str) -> Any:
    model = getattr(import_module("lightgbm"), name)(n_estimators=8, n_jobs=1, verbose=-1, random_state=0)
    return model.fit(X, (NUMBERS > 0).astype(int) if "Classifier" in name else NUMBERS)


FORMATS = [
    "csr_matrix",
    "csc_matrix",
    "coo_matrix",
    "bsr_matrix",
    "dia_matrix",
    "lil_matrix",
    "dok_matrix",
    "csr_array",
    "coo_array",
]

KINDS = [
    *(Kind(f"scipy {name}", partial(_sparse, name), _asked_sparse, ("scipy",)) for name in FORMATS),
    Kind(
        "scipy KDTree",
        lambda: _scipy("spatial.cKDTree", X),
        lambda tree: list(tree.query(MORE, 3)),
        ("scipy",),
        proved=False,
    ),
    Kind(
        "scipy CubicSpline",
        lambda: _scipy("interpolate.CubicSpline", np.arange(160.0), NUMBERS),
        lambda spline: [spline(3.3), spline(5.1, 1)],
        ("scipy",),
    ),
    Kind(
        "scipy frozen distribution",
        lambda: import_module("scipy.stats").gamma(2.0, scale=3),
        lambda law: [law.pdf(X[0]), law.ppf(0.3)],
        ("scipy",),
    ),
    Kind("pandas DataFrame, small", lambda: _frame(12), _asked_frame, ("pandas",)),
    Kind("pandas DataFrame, large", lambda: _frame(2500), _asked_frame, ("pandas",)),
    Kind(
        "pandas DataFrame of several levels",
        _levels,
        lambda frame: [_of_frame(frame), _of_frame(frame.loc[3])],
        ("pandas",),
    ),
    Kind("pandas Series", _series, _of_series, ("pandas",)),
    Kind("gensim Word2Vec", _word2vec, _trained_further, ("gensim",)),
    Kind("gensim KeyedVectors", _vectors, _asked_vectors, ("gensim",)),
    Kind("gensim Dictionary", _dictionary, lambda d: [d.doc2bow(SENTENCES[0]), d.token2id, d.dfs, d[3]], ("gensim",)),
    Kind("gensim LdaModel", _topics, _asked_topics, ("gensim",)),
    Kind(
        "xgboost XGBClassifier",
        lambda: _boosted(True),
        lambda model: [model.predict(X), model.predict_proba(X)],
        ("xgboost",),
    ),
    Kind(
        "xgboost XGBRegressor",
        lambda: _boosted(False),
        lambda model: [model.predict(X), model.fit(X, NUMBERS, xgb_model=model.get_booster()).predict(X)],
        ("xgboost",),
    ),
    Kind(
        "xgboost Booster", _booster, lambda booster: booster.predict(import_module("xgboost").DMatrix(X)), ("xgboost",)
    ),
    Kind(
        "lightgbm LGBMClassifier",
        lambda: _lightgbm("LGBMClassifier"),
        lambda model: [model.predict(X), model.predict_proba(X)],
        ("lightgbm",),
    ),
    Kind(
        "lightgbm LGBMRegressor",
        lambda: _lightgbm("LGBMRegressor"),
        lambda model: [model.predict(X), model.booster_.feature_importance()],
        ("lightgbm",),
    ),
]
