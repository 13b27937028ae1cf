"""scikit-learn's digits and scores, fastreg's classifier: how many pixels could be left out?"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from fastreg.estimators import MLPClassifier, MLPClassifierCV

x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x / 16, y, stratify=y, random_state=0)

# tol=0: every strength gets all its epochs, for weights that are on their way to 0.
warnings.simplefilter("ignore", ConvergenceWarning)
settings = {"learning_rate_init": 0.003, "max_iter": 60, "tol": 0, "n_iter_no_change": np.inf}
plain = MLPClassifier(64, random_state=0, **settings)
strengths = np.geomspace(1e-4, 1e-2, 9)
model = MLPClassifierCV(plain, l1s=strengths, cv=5, rule="one_standard_error")
model.fit(x_train, y_train)

pixels = model.path_.selected_inputs.sum(axis=1)
chosen = pixels[model.best_index_]
accuracy = model.score(x_test, y_test)
print(f"l1={model.l1_:.2g}: {chosen} of 64 pixels, accuracy {accuracy:.3f} on rows held out")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
mean, error = model.scores_.mean(axis=1), model.scores_.std(axis=1) / np.sqrt(5)
left.errorbar(model.l1s_, mean, error, marker="o", capsize=2)
left.plot(model.l1_, mean[model.best_index_], "o", ms=12, mfc="none", color="black")
left.set(xscale="log", xlabel="l1", ylabel="accuracy, 5 folds", ylim=(mean.min() - 0.02, None))
left.set_title("circle: the choice; below: pixels read", fontsize="medium")
for l1, n in zip(model.l1s_, pixels, strict=True):
    left.text(l1, 0.03, n, ha="center", transform=left.get_xaxis_transform())
importances = np.where(model.feature_importances_ > 0, model.feature_importances_, np.nan)
shown = right.imshow(importances.reshape(8, 8), cmap="viridis")
right.set(xticks=[], yticks=[])
right.set_title(f"the {chosen} pixels of the choice", fontsize="medium")
figure.colorbar(shown, ax=right, label="importance")
figure.savefig("pixels.png", dpi=100)
print("pixels.png shows accuracy and pixels for every strength")
