"""What one would use instead of vpipe, each a program of its own:

    python -m benchmarks.competitors.opencv --model MODEL VIDEO...       prints how many frames it labelled

Each is written as somebody would who knows the library: frames are resized to the model's input in one step, by area as
those that the model was trained on where the library can, then go in batches of 256 through the same network at f = 1,
in bf16 and channels_last. Libraries keep their own number of threads, or get as many as there are cores where their
default is one. Files are taken one after the other. `wall` labels nothing: it decodes, with one single-threaded decoder
per core, and is the bound of all.

Without a video a program only loads what it needs: that fails where something is not installed, and says why.
"""

# Program: the distributions that decide its speed.
COMPETITORS = {
    "opencv": ("opencv-python-headless", "opencv-python"),
    "pyav": ("av",),
    "torchcodec": ("torchcodec",),
    "decord": ("decord2",),
    "ffmpeg": ("imageio-ffmpeg",),
    "wall": ("av",),
}
