"""What an update would do; see ``dry_run``."""

from __future__ import annotations

import shutil
from dataclasses import replace

from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import LEARNED
from distributed.driver import train, update
from distributed.driver.dry_run import Estimate, find_place, in_steps
from distributed.driver.look import StoreLook
from distributed.driver.new_names import NAMED, dry_run_names, has_images, learning_from, names_of
from distributed.driver.update_config import UpdateConfig
from distributed.driver.update_rows import FEEDBACK
from distributed.runtime.progress import Log
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.folder import Folder
from distributed.storage.owner import check_free
from distributed.storage.scratch import scratch_folder
from distributed.training.size_rule import DataSize


def dry_run_update(config: UpdateConfig, log: Log) -> Estimate | None:
    """Say what ``update.run`` would do.

    Returns:
        how long; None where the model is there, or the new store is too large to be read for it.

    Raises:
        InputError: what the update would refuse, in the same words.
    """
    config, place, info, out = update.opened(config)
    check_free(out)
    names = names_of(config, place, info, log)
    if names is not None:
        if not has_images(config):
            dry_run_names(names, info, out, log)
            return None
        if out.has(f"{NAMED}/config.json"):
            place, info = learning_from(names, place, info, out, log)
    for path, option in ((config.data.new, "--data.new"), (config.data.replay, "--data.replay")):
        store = FeatureStore.open(path, config.data.columns, option) if path else None
        if store is not None and store.num_bytes > INLINE_BYTES:
            log(f"{path}: {store.num_rows:,} rows, D = {store.image_dim}")
            log(
                "time     not known before they are read, which is not done for a store of this size"
            )
            return None
    folder = scratch_folder()  # of rows to rehearse and corrections to learn from
    try:
        for name in (FEEDBACK, LEARNED):
            if out.has(name):
                out.fetch(name, folder)
        spec = update.plan_of(config, place, info, Folder(str(folder)), log)
        spec = replace(spec, config=replace(spec.config, out=out.address))
        if out.has("model/config.json"):
            train.check_finished(out, spec.fingerprint)
            log(f"{out / 'model'} is there already")
            return None
        train.check_begun(out, spec.fingerprint)
        where = find_place(spec.config)
        for line in where.lines:
            log(line)
        test = None
        if config.data.test:
            test = FeatureStore.open(config.data.test, config.data.columns, "--data.test")
        survey = spec.survey
        held = survey.held_rows
        look = StoreLook(survey, DataSize.of(survey), held, True, "", 0.0, 16.0)
        return in_steps(spec, look, test, where, log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
