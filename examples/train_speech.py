"""Train a WaveNet on the bundled speech, then let it make four seconds of sound."""

import wavedil as wd

steps = 2500
data = wd.audio.bundled_clips(speakers="folders")  # an Italian and a Russian voice, 8 kHz
config = wd.WaveNetConfig(dilations=[2**i for i in range(10)] * 2, speakers=len(data.speakers))
model = wd.WaveNet(config, seed=0)
trainer = wd.Trainer(model, data, optimizer=wd.AdamW(8e-3), schedule=wd.schedules.cosine(steps),
                     batch=2, window=4096, ema=0.998, validation=data)


def on_step(progress):
    if progress.validation is not None:
        print(f"step {progress.step}: validation {progress.validation:.3f} bits/sample")


trainer.fit(steps=steps, on_step=on_step)
trainer.save_model("speech.safetensors")  # the averaged weights, as in the validation

with trainer.averaged():
    codes = model.generate(4 * data.sample_rate, seed=0, speaker=0)
wd.audio.write_audio("speech.wav", wd.audio.mulaw_decode(codes[0]), data.sample_rate)
