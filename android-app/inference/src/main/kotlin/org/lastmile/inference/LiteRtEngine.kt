package org.lastmile.inference

import java.io.File
import java.lang.reflect.InvocationTargetException
import java.lang.reflect.Method
import java.nio.ByteBuffer
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor

/** TensorFlow Lite's interpreter. Its default delegate is XNNPACK. The name is that of the later library LiteRT, which has the same API. */
object LiteRtEngine : Engine {
    override val name = "litert"
    override val suffix = ".tflite"
    override val delegates = listOf("xnnpack", "cpu", "nnapi")

    override fun unavailable(): String? = Engines.unavailable("TensorFlow Lite") { Interpreter::class.java }

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
    private val bareCall = BareCall.of(interpreter)
    private var inputBuffers: Array<Any> = emptyArray()

    // The interpreter falls back silently if XNNPACK or NNAPI takes no operator. Its execution plan is then as long as the file's.
    override val delegate: String
        get() = if (executionPlanLength() < TfliteFile.operatorCount(file)) options.delegate ?: "xnnpack" else "cpu"

    override val copiesInput: Boolean get() = bareCall == null

    override fun setInputs(buffers: List<ByteBuffer>) {
        inputBuffers = buffers.onEach { setPosition(it, 0) }.toTypedArray() // the interpreter reads from the buffer's position
        refill()
    }

    override fun refill() = wrapErrors { bareCall?.setInputs(inputBuffers) ?: Unit }

    override fun invoke() = wrapErrors { bareCall?.run() ?: interpreter.runForMultipleInputsOutputs(inputBuffers, NO_OUTPUT_BUFFERS) }

    override fun readOutputs(): List<ByteBuffer> = outputs.indices.map { interpreter.getOutputTensor(it).asReadOnlyBuffer() }

    override fun close() = interpreter.close()

    private fun executionPlanLength(): Int =
        try {
            val method = Class.forName("org.tensorflow.lite.InterpreterImpl").getDeclaredMethod("getExecutionPlanLength")
            method.isAccessible = true // there is no public API
            method.invoke(interpreter) as Int
        } catch (error: ReflectiveOperationException) {
            throw InferenceException("this build of the app does not keep the methods of org.tensorflow.lite that tell the delegate", error)
        }

    private companion object {
        /** Outputs stay in the interpreter's memory, from which [readOutputs] takes them. */
        val NO_OUTPUT_BUFFERS = emptyMap<Int, Any>()
    }
}

/**
 * The interpreter's call without a copy of the inputs, as in the C and Python APIs. Java's public methods copy the inputs in every
 * run, so this takes the private methods that they call.
 */
private class BareCall(
    private val run: Method,
    private val handles: Array<Any>,
    private val setTo: Method,
    private val inputs: List<Tensor>
) {
    fun setInputs(buffers: Array<Any>) {
        if (buffers.size != inputs.size) throw InferenceException("the model has ${inputs.size} inputs, not ${buffers.size}")
        unwrapped { inputs.forEachIndexed { i, tensor -> setTo.invoke(tensor, buffers[i]) } }
    }

    fun run() {
        unwrapped { run.invoke(null, *handles) }
    }

    private inline fun unwrapped(body: () -> Unit) =
        try {
            body()
        } catch (error: InvocationTargetException) {
            throw error.targetException
        }

    companion object {
        /** Null if this version of the library has no such methods; they are not part of its API. */
        fun of(interpreter: Interpreter): BareCall? =
            try {
                val wrapper = field("org.tensorflow.lite.InterpreterImpl", "wrapper").get(interpreter)!!
                val native = "org.tensorflow.lite.NativeInterpreterWrapper"
                val handles = arrayOf(field(native, "interpreterHandle").get(wrapper)!!, field(native, "errorHandle").get(wrapper)!!)
                val run = method(native, "run", Long::class.java, Long::class.java)
                val setTo = method("org.tensorflow.lite.TensorImpl", "setTo", Any::class.java)
                BareCall(run, handles, setTo, List(interpreter.inputTensorCount) { interpreter.getInputTensor(it) })
            } catch (other: ReflectiveOperationException) {
                null
            }

        private fun field(
            type: String,
            name: String
        ) = Class.forName(type).getDeclaredField(name).also { it.isAccessible = true }

        private fun method(
            type: String,
            name: String,
            vararg parameters: Class<*>
        ) = Class.forName(type).getDeclaredMethod(name, *parameters).also { it.isAccessible = true }
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
