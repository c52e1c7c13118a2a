"""Sources of the compiled module ``mmone._ext``, and what it computes as plain loops (``reference.py``)."""
