"""A DCGAN and a WGAN-GP of Keras's own examples, trained for so many seconds.

Usage: python keras_gans.py '{"peer": "keras-dcgan", "data": FILE.npz, "seconds": 60, "seed": 0,
"count": 10000, "out": FILE.npz}'. Keras and TensorFlow alone; nothing of dlkit.

Nets, losses, rates and batches are those of the examples:
https://keras.io/examples/generative/dcgan_overriding_train_step (with the sizes of the conditional
one, https://keras.io/examples/generative/conditional_gan, since that one is for 28 x 28 x 1) and
https://keras.io/examples/generative/wgan_gp (made for Fashion-MNIST). Departs from them: training
ends when the time is up.
"""

import json
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers

LATENT = 128


def dcgan_nets():
    """Return generator and discriminator of the DCGAN example."""
    discriminator = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(128, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(7 * 7 * 128),
            layers.Reshape((7, 7, 128)),
            layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2DTranspose(256, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(1, 5, padding="same", activation="sigmoid"),
        ]
    )
    return generator, discriminator


class Dcgan(keras.Model):
    """The example's training step: cross-entropy, noisy labels."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.crossed = keras.losses.BinaryCrossentropy()

    def train_step(self, real):
        """Train both once."""
        n = tf.shape(real)[0]
        fake = self.generator(tf.random.normal((n, LATENT)))
        both = tf.concat([fake, real], 0)
        labels = tf.concat([tf.ones((n, 1)), tf.zeros((n, 1))], 0)
        labels += 0.05 * tf.random.uniform(tf.shape(labels))
        with tf.GradientTape() as tape:
            loss = self.crossed(labels, self.discriminator(both, training=True))
        weights = self.discriminator.trainable_weights
        self.second.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            made = self.generator(tf.random.normal((n, LATENT)), training=True)
            loss = self.crossed(tf.zeros((n, 1)), self.discriminator(made))
        weights = self.generator.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def upsampled(x, filters, last=None):
    """Return a map of twice the side."""
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(last)(x) if last else layers.LeakyReLU(0.2)(x)


def wgan_nets():
    """Return generator and critic of the WGAN-GP example."""
    pictures = keras.Input((28, 28, 1))
    x = layers.ZeroPadding2D(2)(pictures)
    for filters, dropped in ((64, 0.0), (128, 0.3), (256, 0.3), (512, 0.0)):
        x = layers.Conv2D(filters, 5, strides=2, padding="same")(x)
        x = layers.LeakyReLU(0.2)(x)
        x = layers.Dropout(dropped)(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    critic = keras.Model(pictures, layers.Dense(1)(x))
    noise = keras.Input((LATENT,))
    x = layers.Dense(4 * 4 * 256, use_bias=False)(noise)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    x = layers.Reshape((4, 4, 256))(x)
    x = upsampled(upsampled(upsampled(x, 128), 64), 1, "tanh")
    return keras.Model(noise, layers.Cropping2D(2)(x)), critic


class Wgan(keras.Model):
    """The example's training step: three critic steps, penalty of 10."""

    def __init__(self, generator, critic):
        super().__init__()
        self.generator, self.critic = generator, critic

    def train_step(self, real):
        """Train the critic three times, the generator once."""
        n = tf.shape(real)[0]
        for _ in range(3):
            with tf.GradientTape() as tape:
                fake = self.generator(tf.random.normal((n, LATENT)), training=True)
                loss = tf.reduce_mean(self.critic(fake, training=True)) - tf.reduce_mean(
                    self.critic(real, training=True)
                )
                alpha = tf.random.uniform(tf.stack([n, 1, 1, 1]))  # uniform, as the paper has it
                between = real + alpha * (fake - real)
                with tf.GradientTape() as inner:
                    inner.watch(between)
                    judged = self.critic(between, training=True)
                slope = inner.gradient(judged, between)
                norm = tf.sqrt(tf.reduce_sum(slope**2, (1, 2, 3)))
                loss += 10.0 * tf.reduce_mean((norm - 1.0) ** 2)
            weights = self.critic.trainable_weights
            self.second.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            fake = self.generator(tf.random.normal((n, LATENT)), training=True)
            loss = -tf.reduce_mean(self.critic(fake, training=True))
        weights = self.generator.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


class Until(keras.callbacks.Callback):
    """Ends training when the time is up."""

    def __init__(self, seconds):
        super().__init__()
        self.end = time.monotonic() + seconds

    def on_train_batch_end(self, batch, logs=None):
        """Look at the clock."""
        if time.monotonic() > self.end:
            self.model.stop_training = True


def main():
    """Train, and write pictures."""
    job = json.loads(sys.argv[1])
    keras.utils.set_random_seed(job["seed"])
    pixels = np.load(job["data"])["x"].astype(np.float32)
    if job["peer"] == "keras-dcgan":
        model, size, high = Dcgan(*dcgan_nets()), 32, 1.0
        pixels /= 255.0
        first, second = (keras.optimizers.Adam(1e-4) for _ in range(2))
    else:
        model, size, high = Wgan(*wgan_nets()), 512, 2.0
        pixels = pixels / 127.5 - 1.0
        first, second = (keras.optimizers.Adam(2e-4, beta_1=0.5, beta_2=0.9) for _ in range(2))
    model.compile(optimizer=first, jit_compile=False)
    model.second = second
    second.build(model.layers[1].trainable_weights)
    began = time.monotonic()
    data = tf.data.Dataset.from_tensor_slices(pixels).shuffle(len(pixels)).repeat()
    data = data.batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    steps = len(pixels) // size
    model.fit(
        data, epochs=10_000, steps_per_epoch=steps, verbose=0, callbacks=[Until(job["seconds"])]
    )
    took = time.monotonic() - began
    made = []
    for i in range(0, job["count"], 250):
        noise = tf.random.stateless_normal((min(250, job["count"] - i), LATENT), (job["seed"], i))
        made.append(np.array(model.generator(noise, training=False)))
    whole = np.concatenate(made)
    whole = whole * 255.0 if high == 1.0 else (whole + 1.0) * 127.5
    np.savez(job["out"], x=np.clip(np.rint(whole), 0, 255).astype(np.uint8))
    done = int(model.optimizer.iterations.numpy())
    print(json.dumps({"steps": done, "batch_size": size, "training_seconds": took,
                      "generator_parameters": model.generator.count_params()}))  # fmt: skip


main()
