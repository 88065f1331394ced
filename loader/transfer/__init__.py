"""Moving assets from a source into a staging directory: parallel ranges, verified as they land, resumable.

    wanted ──spans──▶ connections ──chunks──▶ staged files ──records──▶ journal
                     (fetch.py)     hashed     (staged.py)           (journal.py)
                         ▲           while
                  how many (connections.py) hot

A connection takes the next span of missing chunks, reads it as one range, and hashes every chunk block by block while
writing it to its place. A chunk that is right gets a record in the journal; a wrong or broken one is asked for again
from where it began. Memory is one block a connection, whatever the size or the number of files.
"""
