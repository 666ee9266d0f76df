"""Token shards: what a file holds, where it came from, and whether it is what it says.

shard.py        the file format; one pass over a file gives hash, tokens, documents, faults
stream.py       what a track reads: root, names, order, vocabulary, stated hashes
manifest.py     `manifest.json` beside the shards: hash, tokens and origin of each
hash_cache.py   hashes of unchanged files, so that `submit` reads gigabytes once
files.py        writing whole or not at all; one writer a folder
source.py       where shards can come from: hub.py, web_mirror.py, folder_mirror.py
transfer.py     HTTP downloads that resume;  retry.py  patience with servers
fetch.py        bring what is missing, prove it, write the manifest
check.py        say what is wrong with what is here, and what to do
inventory.py    say what is here, from headers and manifest alone
documents.py, vocabulary.py, pack.py   own text to shards
"""
