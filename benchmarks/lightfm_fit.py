"""LightFM's WARP on image features, for benchmarks.lightfm_warp; imports nothing of this project.

LightFM wants a virtual environment of its own (it is built against older tools): see docs/results.md.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.sparse as sp
from lightfm import LightFM


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "data", help="npz: train_ND, test_MD, row, tag (pairs of the training rows)"
    )
    parser.add_argument("out", help="npz: topk_id_Mk, epochs and seconds of each time in --seconds")
    parser.add_argument("--seconds", type=float, nargs="+", required=True, help="rising")
    parser.add_argument("--tags", type=int, required=True)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--feature_penalty", type=float, default=0.0)
    parser.add_argument("--most_draws", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--k", type=int, default=5)
    given = parser.parse_args()

    with np.load(given.data) as data:
        train, test = (sp.csr_matrix(data[name]) for name in ("train_ND", "test_MD"))
        pairs = sp.coo_matrix(
            (np.ones(len(data["row"]), np.float32), (data["row"], data["tag"])),
            shape=(train.shape[0], given.tags),
        )
    model = LightFM(
        no_components=given.components,
        loss="warp",
        learning_rate=given.rate,
        user_alpha=given.feature_penalty,
        max_sampled=given.most_draws,
        random_state=given.seed,
    )
    topk, epochs, taken = [], [], []
    done, spent = 0, 0.0
    for budget in given.seconds:
        while spent < budget:
            started = time.perf_counter()
            model.fit_partial(pairs, user_features=train, num_threads=given.threads)
            spent += time.perf_counter() - started
            done += 1
        bias_M, latent_ML = model.get_user_representations(test)
        tag_bias_T, tag_TL = model.get_item_representations()
        score_MT = latent_ML @ tag_TL.T + bias_M[:, None] + tag_bias_T
        topk.append(np.argsort(-score_MT, axis=1, kind="stable")[:, : given.k])
        epochs.append(done)
        taken.append(spent)
    np.savez(given.out, topk_id_SMk=np.stack(topk), epochs=epochs, seconds=taken)


if __name__ == "__main__":
    main()
