"""MLflow: PORT and the path of a pickled model. It has no batches."""
# mypy: ignore-errors
# (what this imports is only in the peer's own virtual environment)

import pickle
import sys
from pathlib import Path

import mlflow.pyfunc
import uvicorn
from mlflow.pyfunc import scoring_server


class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.model = pickle.loads(Path(context.artifacts["model"]).read_bytes())

    def predict(self, context, model_input, params=None):
        return self.model.predict(model_input)


if __name__ == "__main__":
    saved = str(Path(sys.argv[2]).with_name("saved"))
    mlflow.pyfunc.save_model(saved, python_model=Model(), artifacts={"model": sys.argv[2]}, pip_requirements=[])
    # What `mlflow models serve` runs, without its access log.
    app = scoring_server.init(mlflow.pyfunc.load_model(saved))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), workers=1, access_log=False)
