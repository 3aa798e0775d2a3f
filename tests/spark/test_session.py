from pathlib import Path
from urllib.parse import urlparse

from pyspark.sql import SparkSession


def test_what_sparks_catalog_makes_is_not_in_the_working_directory(spark: SparkSession) -> None:
    spark.sql("CREATE DATABASE left_behind")
    try:
        [where] = spark.sql("DESCRIBE DATABASE left_behind").where("info_name = 'Location'").collect()
        folder = Path(urlparse(where.info_value).path)
        assert folder.is_dir()
        assert Path.cwd() not in folder.parents
        assert not Path("spark-warehouse", folder.name).exists()
    finally:
        spark.sql("DROP DATABASE left_behind")
