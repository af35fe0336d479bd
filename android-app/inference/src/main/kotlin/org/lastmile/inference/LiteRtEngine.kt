package org.lastmile.inference

import java.io.File
import java.nio.ByteBuffer
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor

/** TFLite's interpreter, now called LiteRT. Its default delegate is XNNPACK. */
object LiteRtEngine : Engine {
    override val name = "litert"
    override val suffix = ".tflite"
    override val delegates = listOf("xnnpack", "cpu", "nnapi")

    override fun unavailable(): String? = Engines.unavailable("org.tensorflow.lite.Interpreter", "LiteRT")

    override fun load(file: File, options: Options): Session {
        if (options.delegate != null && options.delegate !in delegates) {
            throw InferenceException("$name: unknown delegate '${options.delegate}'; known: ${delegates.joinToString()}")
        }
        val settings = Interpreter.Options().setNumThreads(options.threads).setUseXNNPACK(options.delegate in listOf(null, "xnnpack"))
        if (options.delegate == "nnapi") settings.setUseNNAPI(true)
        return wrapErrors {
            Interpreter(file, settings).closeOnFailure {
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
    override val inputs = (0 until interpreter.inputTensorCount).map { tensorInfo(interpreter.getInputTensor(it)) }
    override val outputs = (0 until interpreter.outputTensorCount).map { tensorInfo(interpreter.getOutputTensor(it)) }
    private var inputBuffers: Array<Any> = emptyArray()

    // The interpreter falls back silently if XNNPACK or NNAPI takes no operator. Its execution plan is then as long as the file's.
    override val delegate: String
        get() = if (executionPlanLength() < TfliteFile.operatorCount(file)) options.delegate ?: "xnnpack" else "cpu"

    override fun setInputs(buffers: List<ByteBuffer>) {
        inputBuffers = buffers.onEach { setPosition(it, 0) }.toTypedArray() // the interpreter reads from the buffer's position
    }

    override fun invoke() = wrapErrors { interpreter.runForMultipleInputsOutputs(inputBuffers, NO_OUTPUT_BUFFERS) }

    override fun readOutputs(): List<ByteBuffer> = outputs.indices.map { interpreter.getOutputTensor(it).asReadOnlyBuffer() }

    override fun close() = interpreter.close()

    private fun executionPlanLength(): Int {
        val method = Class.forName("org.tensorflow.lite.InterpreterImpl").getDeclaredMethod("getExecutionPlanLength")
        method.isAccessible = true // there is no public API
        return method.invoke(interpreter) as Int
    }

    private companion object {
        /** Outputs stay in the interpreter's memory, from which [readOutputs] takes them. */
        val NO_OUTPUT_BUFFERS = emptyMap<Int, Any>()
    }
}

private fun tensorInfo(tensor: Tensor): TensorInfo {
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
            else -> throw InferenceException("${tensor.name()} is ${tensor.dataType()}; supported: ${DType.entries.joinToString { it.numpyName }}")
        },
        scale = if (quantized) quantization.scale else null,
        zeroPoint = if (quantized) quantization.zeroPoint else null
    )
}
