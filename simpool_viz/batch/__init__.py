"""Folders of pictures: read in worker processes, looked at in batches of one shape, drawn and written meanwhile.

Three functions do the work, each on its own and without state, so that another engine can run them too:
`reading.prepare` (a file -> what the encoders are given), `looking.look` (a batch -> a board per picture),
`writing.write` (a board -> files and a line of the journal). `local.run` connects them on this machine. Nothing is
imported here: worker processes must start without PyTorch.
"""
