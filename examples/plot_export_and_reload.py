"""
Export a run, and load it with timm
===================================

A model that was trained here is a timm model with one more layer. ``export_timm`` writes it as a folder that
``timm.create_model`` loads without this package, and checks that the embeddings are the same.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch

from pml_center import plots
from pml_center.data import digits
from pml_center.evaluation import RetrievalEvaluator
from pml_center.training import Run, TrainConfig, export_timm, fit

where = Path(tempfile.mkdtemp())
config = TrainConfig(
    "digits",
    loss="SoftmaxLoss + 0.01 * CenterLoss",
    model="test_resnet",
    neck="bnneck",
    embedding_size=32,
    channels=1,
    image_size=32,
    epochs=4,
    workers=0,
    out=str(where / "run"),
)
run, measurement = fit(config)
folder = export_timm(Run.open(where / "run"))
print(*sorted(file.name for file in folder.iterdir()))

# %%
# The neck, a linear layer and a BatchNorm, has become the classifier: 32 "classes" are the 32 numbers of the embedding.
# How images are prepared is in ``config.json`` too, and timm makes the transform of it.

model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
inputs = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**inputs)
print(json.dumps(inputs))

data = digits()
images = torch.stack([transform(data[i][0].convert("L")) for i in range(600)])
with torch.no_grad():
    embeddings = model(images)
    difference = (embeddings - run.load_model()(images)).abs().max().item()
print(f"the largest difference to the embeddings of the run is {difference:.1e}")
assert difference < 1e-3

# %%
# From here on it is an array like any other.

labels = np.asarray(data.labels[:600])
report = RetrievalEvaluator(recall_at=(1,), ci="query")(embeddings, labels)
print(report)
assert report["recall_at_1"] > 0.7

directions = torch.nn.functional.normalize(embeddings, dim=1)
first, second = np.triu_indices(len(labels), k=1)
cosines = (directions @ directions.T).numpy()[first, second]
same = labels[first] == labels[second]
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
plots.similarity_histogram(cosines[same], cosines[~same], ax=ax)
plt.show()

# %%
# ``pml-center export RUN`` does the same from the command line, and ``--format onnx`` writes a file for other runtimes.
