"""Make the sample style image: a swirling rendering of a morph of three licensed people (needs the photographs)."""

from pathlib import Path

import numpy as np
from PIL import Image

from acfun.synthetic.data import list_faces, load_landmarks, require_data_dir, split_people
from acfun.synthetic.morphs import MorphFactory, MorphOptions
from acfun.synthetic.people import load_people
from acfun.synthetic.renderers import RENDERERS

SIZE, SEED = 384, 3

data_dir = require_data_dir()
training, _ = split_people(data_dir)
photos = [photo for photo in list_faces(data_dir) if photo.identity in training]
people = load_people(photos, load_landmarks(data_dir), SIZE)
generator = np.random.default_rng(SEED)
morph = MorphFactory(people, SIZE, options=MorphOptions(light=0.3, grey_probability=0)).sample(generator)
rendering = RENDERERS["munch_swirl"].render(morph.image, morph.landmarks, generator)
picture = Image.fromarray((rendering.image * 255).round().astype(np.uint8))
picture.save(Path(__file__).with_name("style_swirl.png"))
