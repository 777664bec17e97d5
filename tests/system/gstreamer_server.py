"""An RTSP server of GStreamer's, run by the system's Python, which alone finds it:

    python3 gstreamer_server.py FRAMES WIDTH HEIGHT RATE

FRAMES is a file of RGB pictures, shown over and over as H.264 at `/camera`. Prints the port when it is ready. Every
client gets a stream of its own, from the first picture on.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

LAUNCH = (
    "( appsrc name=frames is-live=true format=time do-timestamp=false"
    " caps=video/x-raw,format=RGB,width={width},height={height},framerate={rate}/1"
    " ! videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={rate} bframes=0"
    " ! video/x-h264,profile=baseline ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


class Factory(GstRtspServer.RTSPMediaFactory):
    """Makes a stream of the pictures."""

    def __init__(self, path, width, height, rate):
        super().__init__()
        with open(path, "rb") as file:
            self._frames = file.read()
        self._size, self._rate = 3 * width * height, rate
        self._number = 0
        self.set_launch(LAUNCH.format(width=width, height=height, rate=rate))

        self.connect("media-configure", self._configure)

    def _configure(self, _factory, media):
        self._number = 0
        source = media.get_element().get_child_by_name("frames")
        source.connect("need-data", self._push)

    def _push(self, source, _length):
        at = self._number * self._size % len(self._frames)
        buffer = Gst.Buffer.new_wrapped(self._frames[at : at + self._size])
        buffer.duration = Gst.SECOND // self._rate
        buffer.pts = buffer.dts = self._number * buffer.duration
        self._number += 1
        source.emit("push-buffer", buffer)


def main():
    path, width, height, rate = sys.argv[1], *map(int, sys.argv[2:])
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    factory = Factory(path, width, height, rate)
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main()
