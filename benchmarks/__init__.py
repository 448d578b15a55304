"""The benchmark suite: what people run ConvLSTMs on, the strongest rivals, one contest a workload.

``pytest benchmarks`` measures (``--quick`` for a first impression), ``python -m benchmarks.report``
turns the JSON of a run into a table, a chart and the CSV of this device.
"""
