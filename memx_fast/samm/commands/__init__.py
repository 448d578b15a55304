"""The sub-commands of ``train-samm``: each a module with ``parser()`` and ``run(options)``.

``shared`` is what they share.
"""
