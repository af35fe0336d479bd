package org.lastmile.inference

import java.io.File
import java.nio.ByteBuffer
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor

/** TFLite's interpreter, now called LiteRT. XNNPACK computes unless the options say otherwise. */
object LiteRtEngine : Engine {
    override val name = "litert"
    override val suffix = ".tflite"
    override val delegates = listOf("xnnpack", "cpu", "nnapi")

    override fun missing(): String? = Engines.missing("org.tensorflow.lite.Interpreter", "LiteRT")

    override fun load(file: File, options: Options): Session {
        if (options.delegate != null && options.delegate !in delegates) {
            throw InferenceException("$name knows no delegate '${options.delegate}'; known: ${delegates.joinToString()}")
        }
        val chosen = Interpreter.Options().setNumThreads(options.threads).setUseXNNPACK(options.delegate in listOf(null, "xnnpack"))
        if (options.delegate == "nnapi") chosen.setUseNNAPI(true)
        return explained {
            Interpreter(file, chosen).closedUnless {
                it.allocateTensors()
                LiteRtSession(it, file, options)
            }
        }
    }
}

private class LiteRtSession(
    private val interpreter: Interpreter,
    private val file: File,
    private val options: Options
) : Session {
    override val inputs = (0 until interpreter.inputTensorCount).map { described(interpreter.getInputTensor(it)) }
    override val outputs = (0 until interpreter.outputTensorCount).map { described(interpreter.getOutputTensor(it)) }
    private var given: Array<Any> = emptyArray()

    // The interpreter takes XNNPACK or NNAPI where it can and says nothing where it cannot: its plan then is as long as the file's.
    override val delegate: String
        get() = if (planLength() < TfliteFile.operators(file)) options.delegate ?: "xnnpack" else "cpu"

    override fun set(buffers: List<ByteBuffer>) {
        given = buffers.onEach { moved(it, 0) }.toTypedArray() // it reads from the buffer's position
    }

    override fun invoke() = explained { interpreter.runForMultipleInputsOutputs(given, NOWHERE) }

    override fun get(): List<ByteBuffer> = outputs.indices.map { interpreter.getOutputTensor(it).asReadOnlyBuffer() }

    override fun close() = interpreter.close()

    private fun planLength(): Int {
        val method = Class.forName("org.tensorflow.lite.InterpreterImpl").getDeclaredMethod("getExecutionPlanLength")
        method.isAccessible = true // nothing public tells
        return method.invoke(interpreter) as Int
    }

    private companion object {
        /** Outputs stay in the interpreter's memory, where [get] finds them. */
        val NOWHERE = emptyMap<Int, Any>()
    }
}

private fun described(tensor: Tensor): TensorInfo {
    val quantization = tensor.quantizationParams()
    val quantized = quantization.scale != 0f
    return TensorInfo(
        name = tensor.name(),
        shape = tensor.shape().toList(),
        dtype =
        when (tensor.dataType()) {
            DataType.FLOAT32 -> DType.FLOAT32
            DataType.INT8 -> DType.INT8
            DataType.UINT8 -> DType.UINT8
            DataType.INT32 -> DType.INT32
            DataType.INT64 -> DType.INT64
            else -> throw InferenceException("${tensor.name()} is ${tensor.dataType()}; known: ${DType.entries.joinToString { it.label }}")
        },
        scale = if (quantized) quantization.scale else null,
        zeroPoint = if (quantized) quantization.zeroPoint else null
    )
}
