"""What a user would write today: one script, requests -> ffmpeg -> librosa -> Keras VGG16. The baseline of every ratio.

Kept as idiomatic as it is usual: no session (so no keep-alive), an ffmpeg process a segment, librosa's own mel, and
`model.predict` of each window. It hears the same windows as genre-edge (66,000 samples, 50 % overlap) and imports
nothing of it. With --batch all windows of a segment go through one predict call: what a careful user would write.

Usage: python benchmarks/baseline_script.py URL MODEL.keras [--batch]
"""

import json
import subprocess
import sys
import time

import keras
import librosa
import m3u8
import numpy as np
import requests

SAMPLE_RATE = 22_050
WINDOW = 66_000
HOP = 33_000
GENRES = ["blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock"]


def media_playlist(url):
    """Return the media playlist behind a URL: the first variant of a multivariant one."""
    playlist = m3u8.loads(requests.get(url, timeout=10).text, uri=url)
    if playlist.is_variant:
        return media_playlist(playlist.playlists[0].absolute_uri)
    return playlist


def decode(segment):
    """Decode one segment to mono float32 at 22,050 Hz."""
    command = ["ffmpeg", "-v", "error", "-i", "pipe:0", "-f", "f32le", "-ac", "1", "-ar", str(SAMPLE_RATE), "pipe:1"]
    return np.frombuffer(subprocess.run(command, input=segment, capture_output=True, check=True).stdout, np.float32)


def spectrogram(window):
    """Return the mel spectrogram of one window in dB, 129 x 128 x 1."""
    mel = librosa.feature.melspectrogram(y=window, sr=SAMPLE_RATE, n_fft=1024, hop_length=512, n_mels=128)
    return librosa.power_to_db(mel, ref=np.max).T[..., np.newaxis]


def main(url, model_file, batch=False):
    """Print one JSON object a window."""
    model = keras.models.load_model(model_file)
    model.predict(np.zeros((1, 129, 128, 1), np.float32), verbose=0)
    spectrogram(np.zeros(WINDOW, np.float32))
    print(json.dumps({"ready": True}), flush=True)
    audio = np.zeros(0, np.float32)
    first_sample = 0
    for segment in media_playlist(url).segments:
        body = requests.get(segment.absolute_uri, timeout=10).content
        received_at = time.time()
        audio = np.concatenate([audio, decode(body)])
        windows = []
        while len(audio) >= WINDOW:
            windows.append(spectrogram(audio[:WINDOW]))
            audio = audio[HOP:]
        if batch and windows:
            predicted = model.predict(np.stack(windows), verbose=0)
        else:
            predicted = (model.predict(window[np.newaxis], verbose=0)[0] for window in windows)
        for scores in predicted:
            result = {
                "first_sample": first_sample,
                "genre": GENRES[int(scores.argmax())],
                "confidence": round(float(scores.max()), 4),
                "latency_ms": round((time.time() - received_at) * 1000, 1),
            }
            first_sample += HOP
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], batch="--batch" in sys.argv)
