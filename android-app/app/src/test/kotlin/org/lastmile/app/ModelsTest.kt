package org.lastmile.app

import android.os.Bundle
import android.view.ViewGroup
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lastmile.inference.Artifact
import org.lastmile.inference.Classifier
import org.lastmile.inference.ExecuTorchEngine
import org.lastmile.inference.InferenceException
import org.lastmile.inference.LiteRtEngine
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf

/** Which models the app lists, and what it verifies before it loads one. */
class ModelsTest : ScreenTestBase() {
    private val context = RuntimeEnvironment.getApplication()

    /** Copies a bundled model to the folder to which adb pushes models. */
    private fun push(
        name: String,
        change: (ByteArray) -> Unit = {}
    ): Artifact {
        val bundled = Models.all(context).first()
        val folder = File(context.getExternalFilesDir("models"), name)
        bundled.file.parentFile!!.copyRecursively(folder, overwrite = true)
        val artifact = Artifact.read(folder)
        artifact.file.writeBytes(artifact.file.readBytes().also(change))
        return artifact
    }

    @Test
    fun aPushedModelIsListedAndCanBeLoaded() {
        val artifact = push("one")
        assertEquals(artifact, Models.all(context).last())
        Classifier(artifact).use { assertTrue(it.loadNs > 0) }
    }

    @Test
    fun aModelWithAnotherHashThanInItsManifestIsRejectedOnEveryPage() {
        val artifact = push("changed") { it[it.size / 2] = (it[it.size / 2] + 1).toByte() }

        fun assertRejected(load: () -> Unit) {
            val message = assertThrows(InferenceException::class.java) { load() }.message!!
            assertTrue(message, "${artifact.file}" in message && "sha256 differs" in message)
        }
        assertRejected { Classifier(artifact) }
        pushedSplit()
        val activity = start().get()
        val parent = activity.findViewById<ViewGroup>(R.id.page)
        for (page in listOf(BenchmarkPage(activity, parent, Bundle()), AccuracyPage(activity, parent, Bundle()))) {
            assertRejected { page.measure(artifact) {} }
        }
    }

    @Test
    fun aReinstalledAppUnpacksItsBundledModelsAgain() {
        val before = Models.all(context).first().file
        before.writeText("a model of the previous installation")
        shadowOf(context.packageManager).getInternalMutablePackageInfo(context.packageName).lastUpdateTime += 1
        val after = Models.all(context).first()
        assertEquals(after.file, after.verifiedFile())
        assertFalse(before.exists())
        assertEquals(1, context.noBackupFilesDir.listFiles().orEmpty().size)
    }

    @Test
    fun modelsWhoseRuntimeIsUnavailableComeLast() {
        val other = push("a")
        File(other.file.parentFile, "artifact.json").let { it.writeText(it.readText().replace(other.file.name, "model.onnx")) }
        val runnable = push("b")
        assertEquals(listOf(runnable.file, File(other.file.parentFile, "model.onnx")), Models.all(context).takeLast(2).map { it.file })
    }

    @Test
    fun aFileWithAnUnsupportedInputTypeIsRejectedAndUnmapped() {
        val bundled = Models.all(context).first { it.recipe == "int8" && it.file.name.endsWith(".tflite") }
        val file = File(context.filesDir, "int16.tflite")
        file.writeBytes(bundled.file.readBytes().also(::setInt16Input))
        val error = assertThrows(InferenceException::class.java) { LiteRtEngine.load(file) }
        assertTrue(error.message, "INT16" in error.message!!)
        assertFalse("the file is still mapped", file.path in File("/proc/self/maps").readText())
    }

    @Test
    fun aTruncatedPteFileIsRejectedBeforeExecuTorchReadsIt() {
        val bundled = Models.all(context).first { it.file.name.endsWith(".pte") }
        val content = bundled.file.readBytes()
        val file = File(context.filesDir, "truncated.pte")
        for (length in listOf(content.size - 64, content.size * 3 / 4, content.size / 2, 64)) {
            file.writeBytes(content.copyOf(length))
            val error = assertThrows("$length bytes", InferenceException::class.java) { ExecuTorchEngine.load(file) }
            assertTrue(error.message, "truncated" in error.message!!)
        }
    }

    /** Changes the input's type to int16 and removes the operators, which would reject it. Source: tensorflow/lite/schema/schema.fbs. */
    private fun setInt16Input(content: ByteArray) {
        val bytes = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN)

        fun target(at: Int) = at + bytes.getInt(at)

        fun field(
            table: Int,
            number: Int
        ) = table + bytes.getShort(table - bytes.getInt(table) + 4 + 2 * number)

        val graph = target(target(field(target(0), 2)) + 4)
        val input = bytes.getInt(target(field(graph, 1)) + 4)
        val tensor = target(target(field(graph, 0)) + 4 + 4 * input)
        assertEquals(9, content[field(tensor, 1)].toInt())
        content[field(tensor, 1)] = 7
        bytes.putInt(target(field(graph, 3)), 0)
    }
}
