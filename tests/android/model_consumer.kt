import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import kotlin.coroutines.Continuation
import kotlin.coroutines.EmptyCoroutineContext
import kotlin.coroutines.startCoroutine
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.lastmile.inference.InferenceException
import org.lastmile.models.tiny.Tiny
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** An app that uses the library of a model, on Android's own native libraries. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ModelConsumer {
    private val context: Context get() = RuntimeEnvironment.getApplication()
    private val files = File(System.getProperty("consumer.files")!!)

    @Test
    fun theGoldenSelfTestPassesInBothRuntimes() {
        for (runtime in Tiny.Runtime.entries) {
            Tiny.openBlocking(context, runtime).use { model ->
                val result = model.selfTestBlocking(context)
                File(files, "${runtime.name}.txt").writeText("${result.images} ${result.sameTop1} ${result.maxError} ${result.tolerance} ${model.recipe} ${model.sha256}")
                assertTrue("$result", result.passed)
            }
        }
        assertEquals(listOf("LITERT", "EXECUTORCH"), Tiny.Runtime.entries.map { it.name })
    }

    @Test
    fun theSuspendingFormsGiveTheSamePrediction() {
        val image = golden(0)
        val model = await { Tiny.open(context) }
        assertEquals(Tiny.Runtime.LITERT, model.runtime)
        val prediction = await { model.classify(image) }
        assertEquals(model.classifyBlocking(image).scores, prediction.scores)
        assertEquals(Tiny.Label.entries.toSet(), prediction.scores.map { it.label }.toSet())
        assertEquals(1f, prediction.scores.map { it.probability }.sum(), 1e-5f)
        assertEquals(prediction.scores.maxByOrNull { it.output }, prediction.best)
        assertTrue(await { model.selfTest(context) }.passed)
        model.close()
    }

    @Test
    fun aRotatedImageIsTurnedUpright() {
        val image = golden(1)
        val turned = Bitmap.createBitmap(image, 0, 0, image.width, image.height, android.graphics.Matrix().apply { postRotate(-90f) }, false)
        Tiny.openBlocking(context).use { model ->
            assertEquals(model.classifyBlocking(image).scores, model.classifyBlocking(turned, 90).scores)
            assertThrows(InferenceException::class.java) { model.classifyBlocking(image, 45) }
        }
    }

    @Test
    fun aClosedModelRefusesToClassify() {
        val model = Tiny.openBlocking(context)
        model.close()
        model.close()
        assertThrows(InferenceException::class.java) { model.classifyBlocking(golden(0)) }
    }

    @Test
    fun aFolderOfAnotherModelOrAChangedFileIsRefused() {
        val folder = File(context.noBackupFilesDir, "lastmile/${Tiny.ASSETS}/tflite/${Tiny.LITERT_SHA256}")
        Tiny.openBlocking(context).close()
        val copy = File(context.filesDir, "copy")
        folder.copyRecursively(copy)
        assertEquals(Tiny.Runtime.LITERT, Tiny.openBlocking(copy).use { it.runtime })
        val manifest = File(copy, "artifact.json")
        manifest.writeText(manifest.readText().replace(Tiny.LITERT_SHA256, "0".repeat(64)))
        assertThrows(InferenceException::class.java) { Tiny.openBlocking(copy) }
        File(copy, "artifact.json").delete()
        assertThrows(InferenceException::class.java) { Tiny.openBlocking(copy) }
        // A damaged file in the app's own folder is unpacked again.
        File(folder, "model.tflite").writeBytes(ByteArray(3))
        Tiny.openBlocking(context).use { assertTrue(it.selfTestBlocking(context).passed) }
    }

    @Test
    fun theConstantsNameTheRelease() {
        File(files, "constants.txt").writeText(listOf(Tiny.MODEL, Tiny.VERSION, Tiny.WEIGHTS_SHA256, Tiny.LITERT_SHA256, Tiny.EXECUTORCH_SHA256).joinToString("\n"))
        assertEquals(List(10) { "$it" }, Tiny.Label.entries.map { it.text })
        assertEquals("LABEL_7", Tiny.Label.entries[7].name)
    }

    private fun golden(index: Int): Bitmap = context.assets.open("${Tiny.ASSETS}/golden/$index.png").use { BitmapFactory.decodeStream(it) }!!

    private fun <T> await(body: suspend () -> T): T {
        val results = LinkedBlockingQueue<Result<T>>(1)
        body.startCoroutine(Continuation(EmptyCoroutineContext) { results.add(it) })
        return results.take().getOrThrow()
    }
}
