"""Reading every unit of a store, local or on s3://, by threads of one process: seconds, rows/s and MiB/s.

    python -m benchmarks.store_read --store PATH [--threads 8] [--repeat 3]

Time of opening (listing and footers) and of reading are apart. Bytes are those of the features.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

from distributed.data.feature_store import FeatureStore, RowGroupSlice, read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    for _ in range(given.repeat):
        started = time.perf_counter()
        store = FeatureStore.open(given.store, option="--store")
        opened = time.perf_counter()
        columns = [store.columns.image_id, *store.columns.blocks, store.columns.tags]

        def read(unit: RowGroupSlice, columns: list[str] = columns) -> int:
            return len(read_table(unit, columns))

        with ThreadPoolExecutor(given.threads) as threads:
            rows = sum(threads.map(read, store.units))
        seconds = time.perf_counter() - opened
        size = rows * store.image_dim * store.dtype.itemsize / 2**20
        print(
            f"opened in {opened - started:.2f} s; {rows:,} rows, {size:,.0f} MiB in {len(store.units)} units "
            f"in {seconds:.2f} s: {rows / seconds:,.0f} rows/s, {size / seconds:,.0f} MiB/s"
        )


if __name__ == "__main__":
    main()
