"""Feeds vpipe damaged files, and holds what it does with them against what it promises.

    python -m tests.fuzz videos --count 300      clips of many containers and codecs
    python -m tests.fuzz configs                 configurations of runs and trainings
    python -m tests.fuzz labels                  tables and COCO JSON of labels, files of regions
    python -m tests.fuzz models                  headers of model files

A case is a number: the same seed and number damage the same file in the same way, so `--only` repeats one.
"""
