"""What proves that no fault breaks stm: `make soak` runs all of it for as long as is wanted, the tests a little of it.

damage.py      ways to spoil a file, and what must hold whatever was spoilt
inputs.py      every kind of file that stm reads, and the commands that read it
trials.py      hypothesis chooses what is spoilt and how; with the soak in processes that may crash
kills.py       `stm segment` killed at random moments and run again
long_video.py  memory over thousands of frames
fuzz.py        atheris, guided by coverage, on the readers of small files
__main__.py    all of these one after the other, and a table of what they have found
"""
