"""From a Parquet feature store to the batches of a rank."""
