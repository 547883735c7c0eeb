"""`genre classify --out`: a library of any size, on Dask, into a folder of Parquet. Start at `run.py`."""
