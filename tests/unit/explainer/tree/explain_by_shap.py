"""Fits ensembles and explains rows with shap's TreeExplainer. Run in the environment of shap, which ours can't share.

Writes to the file that is named: rows, background, and per ensemble the pickled estimator's numbers that a model is made of.
"""

import sys

import numpy as np
import shap
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestRegressor

FEATURES = 20


def main(path: str) -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(400, FEATURES)).astype(np.float32).astype(np.float64)
    amounts = rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2]) + (rows[:, 3] > 0.5)
    estimators = {
        "boosting": GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=1).fit(rows, amounts > 0.5),
        "forest": RandomForestRegressor(10, max_depth=12, random_state=1).fit(rows, amounts),
        "deep": GradientBoostingRegressor(n_estimators=5, max_depth=20, random_state=1).fit(rows, amounts),
    }
    held = {"rows": rows[:40], "background": rows[300:400]}
    for name, estimator in estimators.items():
        path_dependent = shap.TreeExplainer(estimator, feature_perturbation="tree_path_dependent")
        interventional = shap.TreeExplainer(estimator, held["background"], feature_perturbation="interventional")
        held[f"{name}.path_dependent"] = path_dependent.shap_values(held["rows"], check_additivity=False)
        held[f"{name}.path_dependent.base"] = np.ravel(path_dependent.expected_value)
        held[f"{name}.interventional"] = interventional.shap_values(held["rows"], check_additivity=False)
        held[f"{name}.interventional.base"] = np.ravel(interventional.expected_value)
        scale = getattr(estimator, "learning_rate", 1 / len(estimator.estimators_))
        constant = np.ravel(estimator.init_.predict(rows[:1])) if hasattr(estimator, "init_") else np.zeros(1)
        if name == "boosting":
            share = estimator.init_.class_prior_[1]
            constant = np.array([np.log(share / (1 - share))])
        trees = [each.tree_ for each in np.ravel(estimator.estimators_)]
        held[f"{name}.constant"] = constant
        held[f"{name}.sizes"] = np.array([tree.node_count for tree in trees])
        for key in ("children_left", "children_right", "feature", "threshold", "weighted_n_node_samples"):
            held[f"{name}.{key}"] = np.concatenate([getattr(tree, key) for tree in trees])
        held[f"{name}.value"] = np.concatenate([tree.value[:, 0, 0] * scale for tree in trees])
    np.savez(path, **held)


if __name__ == "__main__":
    main(sys.argv[1])
