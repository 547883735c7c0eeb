"""The models that say what they hear: musicnn's tags and a sound network's classes, and small heads on both.

In the order of the work: networks.py (both networks become one ONNX file), listen.py (what both say of labelled audio),
genre_head.py and kinds_head.py, fit.py (judged by artist, then fitted on everything), export.py (a model).
"""
