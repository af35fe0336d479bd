package org.lastmile.inference

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs

/**
 * The outputs of a model on a device, compared with its golden outputs.
 *
 * @property sameTop1 number of images whose largest output is the golden one's.
 * @property maxError largest absolute difference of an output.
 * @property tolerance the largest difference to accept; it was derived from what was measured.
 */
data class SelfTest(val images: Int, val sameTop1: Int, val maxError: Float, val tolerance: Float) {
    /** Whether every output is within the tolerance. */
    val passed: Boolean get() = images > 0 && maxError <= tolerance

    companion object {
        /**
         * Classifies every golden image.
         *
         * @param images image files, in the order of the outputs.
         * @param outputs of all images, float32 in little-endian order.
         */
        fun run(
            classifier: Classifier,
            images: List<ByteArray>,
            outputs: ByteArray,
            tolerance: Float
        ): SelfTest {
            val all = ByteBuffer.wrap(outputs).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            val count = all.remaining() / maxOf(images.size, 1)
            if (images.isEmpty() || count * images.size != all.remaining()) {
                throw InferenceException("the golden data has ${images.size} images and ${all.remaining()} outputs")
            }
            val golden = FloatArray(count)
            var same = 0
            var error = 0f
            for (image in images) {
                all.get(golden)
                val found = classifier.classify(Images.decode(image)).outputs
                if (found.size != count) throw InferenceException("the model has ${found.size} outputs and the golden data $count")
                for (i in golden.indices) error = maxOf(error, abs(found[i] - golden[i])) // NaN if one of them is
                if (top(found) == top(golden)) same++
            }
            return SelfTest(images.size, same, error, tolerance)
        }

        private fun top(outputs: FloatArray): Int = outputs.indices.maxByOrNull { outputs[it] } ?: -1
    }
}
