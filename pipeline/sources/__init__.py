"""Where frames come from: video files, indexed, cut at keyframes and decoded side by side."""
