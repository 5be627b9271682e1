"""Folders of pictures: read in worker processes, recorded in batches of one shape, drawn and written meanwhile.

Three functions do the work. Each is on its own and without state, so that another engine can run them too:

`preparing.prepare`    a file -> the input pixels of the encoders
`boards.make_boards`   a batch of prepared pictures -> a board per picture
`writing.write`        a board -> files and a line of the journal

`local.run` connects them on one machine. Nothing is imported here: worker processes must start without PyTorch.
"""
