"""Train a WaveNet on the bundled speech, then let it make four seconds of sound."""

import argparse

import wavedil as wd

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2500, help="minutes on two cores (default: 2500)")
parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
options = parser.parse_args()

data = wd.audio.bundled_clips(speakers="folders")  # an Italian and a Russian speaker, 8 kHz
config = wd.WaveNetConfig(dilations=[2**i for i in range(10)] * 2, speakers=len(data.speakers))
model = wd.WaveNet(config, seed=0, device=options.device)
trainer = wd.Trainer(model, data, optimizer=wd.AdamW(8e-3), schedule=wd.schedules.cosine(options.steps),
                     batch=2, window=4096, ema=0.998, validation=data)


def on_step(progress):
    if progress.validation is not None:
        print(f"step {progress.step}: validation {progress.validation:.3f} bits/sample")


trainer.fit(steps=options.steps, on_step=on_step)
trainer.save_model("speech.safetensors")  # the averaged weights, as in the validation

with trainer.averaged():
    codes = model.generate(4 * data.sample_rate, seed=0, speaker=0)
wd.audio.write_audio("speech.wav", wd.audio.mulaw_decode(codes[0]), data.sample_rate)
