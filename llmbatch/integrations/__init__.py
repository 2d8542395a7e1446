"""llmbatch where tables are: pandas, Ray Data, Dask and Spark. Each module needs its own extra."""
