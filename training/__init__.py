"""How the default model raysparsex-tiny is made: its task, tokenizer, network, training and
yardstick.

`words`, `prose`, `sentences`, `writer` and `world` are pure Python; they know neither torch nor
transformers.
"""
