"""ReSet in Keras 3."""
from reset_keras.layers import *
from reset_keras.losses import *
from reset_keras.models import *
